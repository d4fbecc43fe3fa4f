"""An AWS that runs on this machine: moto keeps what is kept, and jobs, endpoints and functions really execute.

Start it with `aws.handle.Emulator`; clients are unmodified boto3 with `AWS_ENDPOINT_URL`. One account, all regions.
"""
