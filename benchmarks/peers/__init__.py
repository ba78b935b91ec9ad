"""The servers that LMaaS is measured against, each as its own documentation would have it."""
