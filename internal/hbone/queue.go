package hbone

import "sync"

// Sizes of the blocks in which received bytes wait: a connection that says
// little should hold little.
const (
	smallBlock = 4 << 10
	largeBlock = 64 << 10
)

var (
	smallBlocks = sync.Pool{New: func() any { return &block{buf: make([]byte, smallBlock)} }}
	largeBlocks = sync.Pool{New: func() any { return &block{buf: make([]byte, largeBlock)} }}
)

// block holds the bytes buf[r:w].
type block struct {
	buf  []byte
	r, w int
}

func newBlock(size int) *block {
	pool := &largeBlocks
	if size <= smallBlock {
		pool = &smallBlocks
	}
	b := pool.Get().(*block)
	b.r, b.w = 0, 0
	return b
}

func (b *block) free() {
	if len(b.buf) == smallBlock {
		smallBlocks.Put(b)
		return
	}
	largeBlocks.Put(b)
}

// queue holds received bytes until they are read. It holds no memory while it
// is empty. Its bound is the stream's window.
type queue struct {
	blocks []*block
	size   int
}

func (q *queue) push(p []byte) {
	q.size += len(p)
	for len(p) > 0 {
		if len(q.blocks) == 0 || q.last().w == len(q.last().buf) {
			q.blocks = append(q.blocks, newBlock(len(p)))
		}
		b := q.last()
		n := copy(b.buf[b.w:], p)
		b.w += n
		p = p[n:]
	}
}

func (q *queue) last() *block { return q.blocks[len(q.blocks)-1] }

func (q *queue) read(p []byte) (n int) {
	used := 0
	for _, b := range q.blocks {
		m := copy(p[n:], b.buf[b.r:b.w])
		b.r += m
		n += m
		if b.r < b.w {
			break
		}
		b.free()
		used++
	}
	q.size -= n
	q.drop(used)
	return n
}

// take removes blocks of at most limit bytes, at least one block, and appends
// them to dst. The caller frees them.
func (q *queue) take(dst []*block, limit int) []*block {
	n, used := 0, 0
	for _, b := range q.blocks {
		if used > 0 && n+b.w-b.r > limit {
			break
		}
		n += b.w - b.r
		dst = append(dst, b)
		used++
	}
	q.size -= n
	q.drop(used)
	return dst
}

func (q *queue) drop(n int) {
	if n == len(q.blocks) {
		q.blocks = nil
		return
	}
	q.blocks = append(q.blocks[:0], q.blocks[n:]...)
}

func (q *queue) clear() {
	for _, b := range q.blocks {
		b.free()
	}
	*q = queue{}
}
