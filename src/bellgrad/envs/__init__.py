"""Every environment behind one `BatchedEnv`. Importing this registers the native ones with Gymnasium:
`bellgrad/CartPole-v1`."""

from bellgrad.envs import registration as registration
