"""What is done to the peers: one file an abuse, each a program that runs in an arena (`bench.abuses.arena`)."""
