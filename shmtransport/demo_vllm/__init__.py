"""Real vLLM on real photographs, with the plugin off and on: the same answers, and what both hops cost.

A tiny LLaVA is served through vLLM's offline ``LLM`` by two child processes, one after the other, that differ in
SHMTRANSPORT_ENABLE only. A recorder looks on inside vLLM's own processes.

    settings      what is asked, and the memory that takes
    checkpoint    the model, made with seeded weights
    photographs   what is asked about: photographs, no two images alike
    answers       what the model says to them, as it can be compared bit by bit
    frontend      vLLM's engine client, watched from outside
    messages      what a child process reports
    serve         the child process
    records       what the recorder writes down
    recorder      a plugin of vLLM that looks on in its EngineCore and workers
    processes     the life of a child process, in the hands of its parent
    run           both children, one after the other, and what came out
    report        the same as the JSON has it
    table         the same for people
    command       the command line's side of it

Only `checkpoint`, `photographs`, `serve` and `recorder` need vLLM or what comes with it, and none of them is
imported by the command.
"""
