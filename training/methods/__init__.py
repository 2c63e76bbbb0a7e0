"""The methods from the literature, one folder each; none imports another."""
