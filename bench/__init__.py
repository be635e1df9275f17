"""Measurements beside runc; what is promised about speed is shown here, not in tests."""
