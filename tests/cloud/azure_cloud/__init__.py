"""An Azure that runs on this machine, for the unmodified SDK: real host names, behind a proxy, under a CA of its own.

Start it with `azure_cloud.handle.AzureEmulator`. One subscription, one resource group, any number of workspaces; blobs
are kept by Azurite, jobs and endpoints really execute.

What answers: `server` takes a connection, `cloud` finds who answers for the host, `arm` answers for
management.azure.com and asks the `Kind` of the type (`kinds`). `calls` has what all of them are given and give back.

What executes: `execution` puts it together. `images` builds what an environment names, without downloads; `machine`
brings code and files; a job is a `job_run` (with `mounts`, told of by `history` and `tracking`), a deployment is
Microsoft's inference server (`deployment`, behind `scoring`), and `workflows` run by the emulator's clock.
"""
