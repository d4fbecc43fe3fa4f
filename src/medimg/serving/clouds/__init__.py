"""What SageMaker, AzureML and Lambda import and call: a few lines each around the same predictor."""
