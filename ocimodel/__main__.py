"""`python -m ocimodel`"""

from ocimodel.cli.main import main

if __name__ == "__main__":
    main()
