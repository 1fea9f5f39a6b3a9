"""``python -m sb3_dai.zoo COMMAND ...``: the commands of RL Zoo, with DAI."""

from sb3_dai.zoo import main

if __name__ == "__main__":
    main()
