"""One file a revision, oldest first by `down_revision`."""
