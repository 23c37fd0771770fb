{
  'variables': { 'sanitizer%': 'none' },
  'targets': [
    {
      'target_name': 'tsvm',
      'sources': [
        'native/addon.cc',
        'native/arguments.cc',
        'native/bus.cc',
        'native/channel.cc',
        'native/error.cc',
        'native/event_fd.cc',
        'native/host_file.cc',
        'native/io_request.cc',
        'native/io_ring.cc',
        'native/kvm.cc',
        'native/memory.cc',
        'native/reactor.cc',
        'native/thread_engine.cc',
        'native/uring_engine.cc',
        'native/vcpu.cc',
        'native/vcpu_thread.cc',
        'native/vm.cc',
        'native/vm_core.cc',
      ],
      'defines': [
        'NAPI_VERSION=9',
        'NODE_ADDON_API_CPP_EXCEPTIONS',
        'NODE_ADDON_API_CPP_EXCEPTIONS_ALL',
        'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS',
        '_GNU_SOURCE',
        '_FILE_OFFSET_BITS=64',
      ],
      'cflags!': ['-fno-exceptions'],
      'cflags_cc!': ['-fno-exceptions', '-fno-rtti', '-std=gnu++20', '-std=gnu++17'],
      'cflags_cc': [
        '-std=c++17',
        '-fexceptions',
        '-fvisibility=hidden',
        '-fstack-protector-strong',
        '-Wall',
        '-Wextra',
        '-Werror',
        '-isystem',
        '<!(node -p "require(\'node:path\').resolve(require(\'node-addon-api\').include_dir)")',
      ],
      'conditions': [
        [
          'sanitizer=="asan"',
          {
            'cflags_cc': [
              '-fsanitize=address,undefined',
              '-fno-sanitize=vptr',
              '-fno-sanitize-recover=undefined',
              '-fno-omit-frame-pointer',
              '-g',
              '-O1',
            ],
            'ldflags': ['-fsanitize=address,undefined'],
          },
        ],
        [
          'sanitizer=="tsan"',
          {
            'cflags_cc': ['-fsanitize=thread', '-fno-omit-frame-pointer', '-g', '-O1'],
            'ldflags': ['-fsanitize=thread'],
          },
        ],
      ],
    }
  ],
}
