#!/usr/local/bin/python3 -IS
"""Is this container well? `healthy URL`: it answers; `healthy FILE`: the process whose id stands there lives."""

import os
import sys
import urllib.request

what = sys.argv[1]
if what.startswith("http://"):
    urllib.request.urlopen(what, timeout=4).close()  # noqa: S310 (http, as the line above asks)
else:
    with open(what, encoding="ascii") as file:
        os.kill(int(file.read()), 0)
