"""The tests, in a folder for each package of ``whisperq_edge``; ``support`` has what several of them use."""
