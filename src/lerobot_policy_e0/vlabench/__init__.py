"""VLABench's demonstrations as datasets that E0 trains on."""
