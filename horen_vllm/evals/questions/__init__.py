"""What is asked: each protocol as pure functions from cases to questions, and the plan of a whole run."""
