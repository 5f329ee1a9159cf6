"""What the aggregator tells about itself, its devices and its broker: points for InfluxDB, or a folder of lines."""
