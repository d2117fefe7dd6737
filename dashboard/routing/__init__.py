"""The routing page: which target got which calls and why, and what happened when the first choice failed."""
