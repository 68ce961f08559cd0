"""`python -m auditor`: the command where nothing but Python is on the path."""

from auditor.cli import main

if __name__ == "__main__":
    main()
