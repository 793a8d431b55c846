// Package arch keeps the rules of ARCHITECTURE.md as tests: who may import
// whom, that every package says what it is for, and that the words of a rule
// still name something that exists.
package arch
