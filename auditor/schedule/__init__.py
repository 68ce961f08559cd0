"""Periodic audits: kept by a process of our own on a plain Ray cluster, or by Kubernetes with manifests made here."""
