"""How long a test waits for something that is to happen, before it says that it did not.

No promise of the platform: where nothing is broken, nobody waits so long. It is long because a machine may be busy, and
a test that then gives up after a few seconds tells of the machine.
"""

PATIENCE = 180.0
