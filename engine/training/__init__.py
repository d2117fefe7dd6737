"""Training of drafters: answers of a target, features of them, losses, evaluation, calibration."""
