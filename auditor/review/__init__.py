"""What people decide about flagged samples: the queue, their verdicts, the cleaned export, two audits compared."""
