"""`python -m shopcast_cli`: the same as `platform`."""

from shopcast_cli.entry import main

main()
