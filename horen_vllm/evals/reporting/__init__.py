"""What a run says: its description, a summary of its records, a comparison with another run, a report."""
