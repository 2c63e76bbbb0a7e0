"""Class-aware contrastive learning (CCL): one reconstruction-based detector for many categories."""
