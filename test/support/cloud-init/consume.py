"""Has cloud-init take a seed, as it does at a first boot, and prints as JSON what it came to. Nothing outside of the
folder that is named by the first argument is changed."""
import json
import os
import sys

from cloudinit import helpers, stages, util
from cloudinit.distros import ug_util
from cloudinit.net import network_state
from cloudinit.settings import PER_INSTANCE

folder = sys.argv[1]
# What an image has in /etc/cloud/cloud.cfg, and places of our own.
base = {
    "datasource_list": ["NoCloud"],
    "datasource": {"NoCloud": {"fs_label": None}},
    "users": ["default"],
    "system_info": {
        "distro": "debian",
        "default_user": {"name": "debian", "lock_passwd": True, "sudo": ["ALL=(ALL) NOPASSWD:ALL"]},
        "paths": {"cloud_dir": os.path.join(folder, "lib"), "run_dir": os.path.join(folder, "run")},
    },
}
fetch_base_config = stages.fetch_base_config
stages.fetch_base_config = lambda *args, **more: util.mergemanydict([base, fetch_base_config(*args, **more)])

init = stages.Init(["FILESYSTEM"])
init.read_cfg()
init.initialize()
source = init.fetch(existing="trust")
init.instancify()
init.update()
init.consume_data(PER_INSTANCE)
cloud = init.cloudify()

instance = os.path.realpath(init.paths.get_ipath_cur())


def scripts(kind):
    path = os.path.join(instance, kind)
    found = {}
    for name in sorted(os.listdir(path)) if os.path.isdir(path) else []:
        if os.path.isfile(os.path.join(path, name)):
            with open(os.path.join(path, name)) as file:
                found[name] = file.read()
    return found


# As later stages do; those look for it in the places of an installed system.
config = helpers.ConfigMerger(paths=init.paths, datasource=source, base_cfg=stages.fetch_base_config()).cfg
users, _ = ug_util.normalize_users_groups(config, cloud.distro)
network = source.network_config
print(
    json.dumps(
        {
            "source": str(source),
            "instanceId": cloud.get_instance_id(),
            "hostname": str(getattr(cloud.get_hostname(), "hostname", cloud.get_hostname())),
            "keys": source.get_public_ssh_keys(),
            "defaultUser": ug_util.extract_default(users)[0],
            "users": users,
            "config": {key: config.get(key) for key in ("packages", "ssh_authorized_keys", "ssh_pwauth", "password", "chpasswd")},
            "vendorScripts": scripts("scripts/vendor"),
            "userScripts": scripts("scripts"),
            "interfaces": None
            if network is None
            else [dict(each) for each in network_state.parse_net_config_data(network).iter_interfaces()],
        },
        default=str,
    )
)
