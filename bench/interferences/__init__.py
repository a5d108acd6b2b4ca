"""What stands in whose way: one file an experiment, and the two processes of a service, which some of them need."""
