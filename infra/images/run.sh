#!/bin/sh
# Files in the shared working folder are the group's as well: the host's user works on them too.
umask 002
exec "$@"
