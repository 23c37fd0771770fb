/** The port that qemu-guest-agent opens by itself: `/dev/virtio-ports/org.qemu.guest_agent.0`. */
export const AGENT_PORT = 'org.qemu.guest_agent.0';
