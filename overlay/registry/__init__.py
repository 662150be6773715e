"""Images that come from registries and go there: the OCI distribution specification, and Docker's token authentication.

:mod:`endpoint` says how a registry is reached, :mod:`authentication` reads its challenges, :mod:`session` talks HTTP with it,
:mod:`documents` finds the manifest that is meant, :mod:`fetching` brings blobs in and :mod:`delivering` takes them there;
:mod:`client` is what the rest of the engine uses. httpx2 is imported in this package only.
"""
