"""Networks of containers: bridges, the links to them, addresses. pyroute2 is imported in this package only.

:mod:`addresses` chooses subnets and addresses, :mod:`words` reads what a container's ``network`` says, :mod:`links` talks to the
kernel, :mod:`store` keeps the networks, :mod:`attaching` connects a container to them.
"""
