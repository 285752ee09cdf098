"""Private servers for the quickstart and the tests: PostgreSQL, RabbitMQ and txmsgd, each with its own data directory and
free ports, started by the program that needs them and stopped with it. Only Python's standard library."""
