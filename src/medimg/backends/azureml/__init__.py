"""Azure Machine Learning as a backend: `medimg.backend("azureml", subscription=…)`. Its calls go through azure-ai-ml.

backend    the ten primitives, each over one of:
  jobs       training and prediction jobs, started there by launch; logs: their logs
  models     registered models, and the models that endpoints serve
  endpoints  managed online endpoints, each with
    deployments  what answers                    records    what is known of them     scoring  the requests
    claims       who makes or changes one now    deadlines  the end of its time       scaling  its machines
what these share:
  workspace     clients, names, calls of Azure Resource Manager; login     errors     Azure's errors in medimg's words
  storage       files in the workspace's Blob Storage, by blobs            instances  what a machine's name says
  environments  what jobs and endpoints run in                             prices     Azure's price list
  assets        what is found by its name, whatever its version
setting up:
  bootstrap, status and teardown of the resources that blueprint lists, with their roles; bicep writes them; doctor
"""
