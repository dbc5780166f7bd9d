import pickle
import subprocess


def planted(data):
    subprocess.run(data, shell=True)
    return pickle.loads(data)
