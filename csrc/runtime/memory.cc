#include "runtime/memory.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "runtime/check.h"
#include "runtime/rehearsal.h"

namespace attnedit {
namespace {

// Blocks come in eight sizes per doubling: at most 12.5 % is wasted, and a buffer that grows a little at every step (a
// cache of keys) still finds the blocks of its last steps.
size_t block_size(size_t bytes) {
  const size_t step = std::max<size_t>(512, std::bit_floor(bytes) / 8);
  return (bytes + step - 1) / step * step;
}

// Kept blocks of sizes that nobody asks for any more go back once the pool holds this much more than was ever in use.
size_t reserve_allowance(size_t peak) { return peak + peak / 4 + (size_t{64} << 20); }

struct Use {
  std::shared_ptr<StreamState> stream;
  uint64_t until = 0;  // the last task that may use the block, known once it is released
};

struct Pool;

struct Block {
  void* data;
  size_t size, used;
  int device;
  Pool* pool;
  std::vector<Use> uses;  // first by the stream it was allocated on
  uint64_t released = 0;  // a clock of releases, 0 while in use

  // Work on this stream comes after everything that uses the block. No stream: the same for the host.
  bool free_for(const StreamState* stream) const {
    return std::all_of(uses.begin(), uses.end(),
                       [&](const Use& use) { return use.stream.get() == stream || use.stream->passed(use.until); });
  }
};

struct Pool {
  std::map<size_t, std::vector<Block*>> kept;  // by size, the last released last
  MemoryStats stats;
  size_t limit = kNoMemoryLimit;
  size_t most_used = 0;
};

// Leaked: arrays may be released after static objects have ended.
struct Memory {
  std::mutex mutex;
  std::vector<Pool> pools = std::vector<Pool>(device_count());
  std::vector<std::unique_ptr<Pool>> rehearsals;  // kept: arrays may outlive the rehearsal that made them
  std::unordered_map<void*, std::unique_ptr<Block>> blocks;
  uint64_t releases = 0;
};
Memory& memory() {
  static Memory& made = *new Memory;
  return made;
}

thread_local Pool* rehearsal = nullptr;

std::string readable(size_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double amount = static_cast<double>(bytes);
  int unit = 0;
  for (; amount >= 1024 && unit < 4; ++unit) amount /= 1024;
  char text[32];
  std::snprintf(text, sizeof(text), unit ? "%.1f %s" : "%.0f %s", amount, kUnits[unit]);
  return text;
}

// A block is longer than what was asked for: AddressSanitizer is told where the bytes end that somebody may touch. What
// is queued may still use the block for whoever had it before, and is not to be accused of that.
void limit_access([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes, [[maybe_unused]] size_t size) {
#ifdef __SANITIZE_ADDRESS__
  if (rehearsal) return;
  wait_for_all_streams();
  ASAN_UNPOISON_MEMORY_REGION(data, bytes);
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(data) + bytes, size - bytes);
#endif
}

// The system gives these addresses to somebody else.
void allow_access([[maybe_unused]] const Block& block) {
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(block.data, block.size);
#endif
}

Block* take_kept(Pool& pool, size_t size, const StreamState* stream) {
  const auto found = pool.kept.find(size);
  if (found == pool.kept.end()) return nullptr;
  std::vector<Block*>& list = found->second;
  for (size_t i = list.size(); i-- > 0;)
    if (Block* block = list[i]; block->free_for(stream)) {
      list.erase(list.begin() + i);
      return block;
    }
  return nullptr;
}

// Gives back kept blocks that no queued work uses, the longest unused first, until at most `reserved` bytes are left.
void give_back(Pool& pool, size_t reserved) {
  std::vector<Block*> idle;
  for (const auto& [size, list] : pool.kept)
    for (Block* block : list)
      if (block->free_for(nullptr)) idle.push_back(block);
  std::sort(idle.begin(), idle.end(), [](const Block* a, const Block* b) { return a->released < b->released; });
  for (Block* block : idle) {
    if (pool.stats.reserved <= reserved) return;
    std::erase(pool.kept[block->size], block);
    pool.stats.reserved -= block->size;
    allow_access(*block);
    backend().free(block->device, block->data, block->size);
    memory().blocks.erase(block->data);
  }
}

bool keeps_any(const Pool& pool) {
  return std::any_of(pool.kept.begin(), pool.kept.end(), [](const auto& size) { return !size.second.empty(); });
}

Block* make_block(Pool& pool, int device, size_t size) {
  if (size > pool.limit || pool.stats.reserved > pool.limit - size) return nullptr;
  void* data = nullptr;
  if (backend().malloc(device, size, &data) != 0) return nullptr;
  auto made = std::make_unique<Block>(data, size, 0, device, &pool);
  Block* block = made.get();
  memory().blocks.emplace(data, std::move(made));
  pool.stats.reserved += size;
  pool.stats.reserved_peak = std::max(pool.stats.reserved_peak, pool.stats.reserved);
  return block;
}

Block* grow(Pool& pool, int device, size_t size, std::unique_lock<std::mutex>& lock) {
  if (const size_t allowed = reserve_allowance(pool.most_used); pool.stats.reserved + size > allowed)
    give_back(pool, allowed - std::min(allowed, size));
  if (Block* block = make_block(pool, device, size)) return block;
  give_back(pool, 0);
  if (Block* block = make_block(pool, device, size)) return block;
  if (!keeps_any(pool)) return nullptr;
  lock.unlock();  // what is kept now, queued work still uses
  wait_for_all_streams();
  lock.lock();
  give_back(pool, 0);
  return make_block(pool, device, size);
}

bool poisons() {
  static const bool on = [] {
    const char* value = std::getenv("ATTNEDIT_POISON");
    return value && std::string(value) == "1";
  }();
  return on;
}

}  // namespace

void* allocate(size_t bytes) {
  refuse_after_fork("allocate");
  Stream& stream = current_stream();
  const int device = stream.device();
  if (bytes > (size_t{1} << 60)) throw OutOfMemory("[memory] " + readable(bytes) + " is more than any device has");
  const size_t used = (std::max<size_t>(bytes, 1) + 511) / 512 * 512, size = block_size(used);
  std::unique_lock lock(memory().mutex);
  Pool& pool = rehearsal ? *rehearsal : memory().pools[device];
  ++pool.stats.allocations;
  Block* block = take_kept(pool, size, stream.state().get());
  if (!block) block = grow(pool, device, size, lock);
  if (!block) {
    ++pool.stats.out_of_memory;
    throw OutOfMemory("[memory] device " + std::to_string(device) + " is out of memory: needed " + readable(size) +
                      ", allowed " + (pool.limit == kNoMemoryLimit ? "all it has" : readable(pool.limit)) +
                      ", in use " + readable(pool.stats.allocated));
  }
  block->used = used;
  block->released = 0;
  block->uses.assign(1, {stream.state()});
  pool.stats.allocated += used;
  pool.stats.allocated_peak = std::max(pool.stats.allocated_peak, pool.stats.allocated);
  pool.most_used = std::max(pool.most_used, pool.stats.allocated);
  void* data = block->data;
  lock.unlock();
  limit_access(data, bytes, size);
  if (poisons()) stream.launch("poison", [data, bytes] { std::memset(data, 0xff, bytes); });
  return data;
}

void release(void* data) noexcept {
  if (forked()) return;  // the lock may be held by a thread that this process does not have
  std::lock_guard lock(memory().mutex);
  const auto found = memory().blocks.find(data);
  if (found == memory().blocks.end() || found->second->released) return;
  Block* block = found->second.get();
  for (Use& use : block->uses) use.until = use.stream->launched();
  block->released = ++memory().releases;
  Pool& pool = *block->pool;
  pool.stats.allocated -= block->used;
  pool.kept[block->size].push_back(block);
}

void record_stream(void* data, Stream& stream) {
  std::lock_guard lock(memory().mutex);
  const auto found = memory().blocks.find(data);
  ATTNEDIT_CHECK(found != memory().blocks.end() && !found->second->released, "record_stream",
                 "the memory must be in use and come from the pool, got other memory");
  std::vector<Use>& uses = found->second->uses;
  if (std::none_of(uses.begin(), uses.end(), [&](const Use& use) { return use.stream == stream.state(); }))
    uses.push_back({stream.state()});
}

void open_rehearsal_pool() {
  std::lock_guard lock(memory().mutex);
  memory().rehearsals.push_back(std::make_unique<Pool>());
  rehearsal = memory().rehearsals.back().get();
}

MemoryStats close_rehearsal_pool() {
  std::lock_guard lock(memory().mutex);
  const MemoryStats stats = rehearsal->stats;
  give_back(*rehearsal, 0);
  rehearsal = nullptr;
  return stats;
}

MemoryStats memory_stats(int device) {
  check_device("memory_stats", device);
  std::lock_guard lock(memory().mutex);
  return memory().pools[device].stats;
}

void reset_peak_memory_stats(int device) {
  check_device("reset_peak_memory_stats", device);
  std::lock_guard lock(memory().mutex);
  MemoryStats& stats = memory().pools[device].stats;
  stats.allocated_peak = stats.allocated;
  stats.reserved_peak = stats.reserved;
}

void set_memory_limit(size_t bytes, int device) {
  check_device("set_memory_limit", device);
  std::lock_guard lock(memory().mutex);
  memory().pools[device].limit = bytes;
}

void empty_cache(int device) {
  check_device("empty_cache", device);
  refuse_after_fork("empty_cache");
  wait_for_all_streams();
  std::lock_guard lock(memory().mutex);
  give_back(memory().pools[device], 0);
#ifdef __GLIBC__
  malloc_trim(0);  // what numpy's temporaries left in the heap, tens of MiB
#endif
}

}  // namespace attnedit
