"""Every environment behind one `BatchedEnv`: native (batched torch), Gymnasium, and pure transforms over both."""
