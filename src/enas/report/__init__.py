"""What a person looks at: drawings of architectures, and what a run came to in words."""
