"""Training, export and measuring of models; run from the repository, never on the vehicle."""
