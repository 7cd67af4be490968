"""What several tests use: models and audio that are made, servers, scripted models, programs that are built."""
