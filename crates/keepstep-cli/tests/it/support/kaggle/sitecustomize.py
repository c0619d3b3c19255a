"""Sends the installed kagglehub and kaggle to a server of the tests. Nothing else of them is changed."""

import os

if "KEEPSTEP_TEST_KAGGLE" in os.environ:
    from kagglesdk import kaggle_env

    kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.PROD] = os.environ["KEEPSTEP_TEST_KAGGLE"]
