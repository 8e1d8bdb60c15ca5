"""What every worker runs: block pool, prefix cache, scheduler, model, sampler, tokenizer."""
