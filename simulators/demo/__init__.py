"""The demo: six people's watches teach one model, each device a process of its own."""
