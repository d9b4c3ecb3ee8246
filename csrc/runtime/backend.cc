#include "runtime/backend.h"

#include <dlfcn.h>

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

namespace attnedit {
namespace {

const char* environment(const char* name) {
  const char* value = std::getenv(name);
  return value && *value ? value : nullptr;
}

[[noreturn]] void refuse(const std::string& variable, const std::string& why) {
  throw std::runtime_error("[" + variable + "] " + why);
}

const AttneditBackend& load(const std::string& path) {
  const std::string variable = "ATTNEDIT_BACKEND_PATH";
  // It is never closed: its threads and memory outlive every caller.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) refuse(variable, "cannot open the library: " + std::string(dlerror()));
  auto entry = reinterpret_cast<AttneditBackendEntry>(dlsym(library, "attnedit_backend_entry"));
  if (!entry) refuse(variable, path + " has no symbol attnedit_backend_entry");
  const AttneditBackend* table = entry(ATTNEDIT_BACKEND_ABI_MAJOR);
  const std::string ours = std::to_string(ATTNEDIT_BACKEND_ABI_MAJOR);
  if (!table) refuse(variable, path + " must speak version " + ours + " of the backend table, and says it does not");
  if (table->abi_major != ATTNEDIT_BACKEND_ABI_MAJOR || table->struct_size < sizeof(AttneditBackend))
    refuse(variable, path + " must speak version " + ours + " of the backend table, got " +
                         std::to_string(table->abi_major) + "." + std::to_string(table->abi_minor) + " of " +
                         std::to_string(table->struct_size) + " bytes");
  if (!table->host_addressable)
    refuse(variable, path + " has memory that the kernels, which run on the host, cannot reach");
  return *table;
}

const AttneditBackend& choose() {
  std::vector<const AttneditBackend*> found{&cpu_backend()};
  if (const char* path = environment("ATTNEDIT_BACKEND_PATH")) found.push_back(&load(path));
  if (const char* name = environment("ATTNEDIT_BACKEND")) {
    std::string names;
    for (const AttneditBackend* candidate : found) {
      if (std::string(name) == candidate->name) {
        if (candidate->score() > 0) return *candidate;
        refuse("ATTNEDIT_BACKEND", std::string(name) + " cannot run here");
      }
      names += (names.empty() ? "" : " or ") + std::string(candidate->name);
    }
    refuse("ATTNEDIT_BACKEND", "must be " + names + ", got " + name);
  }
  const AttneditBackend* best = found[0];
  for (const AttneditBackend* candidate : found)
    if (candidate->score() > best->score()) best = candidate;
  return *best;
}

}  // namespace

const AttneditBackend& backend() {
  static const AttneditBackend& chosen = choose();
  return chosen;
}

bool launch_blocking() {
  static const bool on = [] {
    const char* value = environment("ATTNEDIT_LAUNCH_BLOCKING");
    return value && std::string(value) == "1";
  }();
  return on;
}

void check_backend(int status, const char* call) {
  if (status == 0) return;
  const char* reason = backend().last_error();
  throw std::runtime_error(std::string("[") + call + "] the " + backend().name +
                           " backend failed: " + (reason && *reason ? reason : "no reason given"));
}

}  // namespace attnedit
