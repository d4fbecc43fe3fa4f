"""What emulators of clouds run things on: processes that cannot import the checkout.

containers  processes with a Python, a home and a folder of their own
serving     one of them that is a server
guardian    which ends them all, whatever happens
"""
