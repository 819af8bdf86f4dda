"""What calibration is fitted on: prompts of facts that are not edited."""
