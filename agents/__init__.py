"""Reference agents: programs that speak a courier's contract. Each file runs by itself and imports nothing of Berth."""
