"""The sections of the configuration, whose whole is `auditor.config.Config`."""
