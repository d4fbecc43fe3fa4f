"""Amazon SageMaker as a backend: `medimg.backend("sagemaker", region=…)`. Its calls go through boto3.

backend    the ten primitives, each over one of:
  jobs       training and prediction jobs
  registry   registered models
  endpoints  real-time and serverless endpoints; versions: what each is given to serve
  functions  Lambda endpoints; http_api: the address and key in front of a function
what these share:
  account    session, clients, names          errors     boto3's errors in medimg's words
  storage    objects in S3, by reader         archives   what SageMaker serves
  logs       CloudWatch                       schedules  the end of an endpoint's time
  images     AWS's images                     instances  what an instance's name says
  prices     AWS's price list
setting up:
  bootstrap, by template; policies, made of grants; doctor
"""
