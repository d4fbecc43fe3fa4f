"""Train a medical image classifier once; run it on your machine and in the cloud."""
