"""Apple's AFM from scratch: data, tokenizer, model, every training stage, at toy scale."""
