"""Trials of the real node: faults, lifecycle cycles, fuzzing, soak. Nothing else imports them."""
