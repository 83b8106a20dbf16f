"""How other programs come to start this one: agents in their configuration files, and a service."""
