"""The machine's side: agent, sandbox, jobs."""
